"""Judgements: (change, evidence, policy) to a verdict. Gates never act."""
