#!/usr/bin/env bash
# Make what the Makefile's targets need, on Debian or Ubuntu with Python 3.11+, git, make and a package index.
#
#   scripts/setup.sh python     .venv with exactly what requirements/lock.txt names, and backout itself, editable
#   scripts/setup.sh servers    the database servers that the tests use and that come from Debian, if we may
#
# Says what it is doing, is silent when nothing is to be done, and leaves no half-made state behind: a stamp is
# written last, and names what it was made from.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }

apt_install() { # package…
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@" >&2
}

may_apt_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

make_environment() { # python
    if ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then # Debian keeps these in a package of their own
        local package
        package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        if ! may_apt_install; then
            say "this Python cannot make an environment: run 'sudo apt-get install $package', then make again"
            exit 1
        fi
        say "installing $package"
        apt-get -q update >&2
        apt_install "$package"
    fi
    say "making .venv with $("$1" --version)"
    rm -rf .venv
    "$1" -m venv .venv
}

setup_python() {
    local python stamp wanted pip
    stamp=.venv/.made-from
    # pyproject.toml counts as well: entry points and version are read from the installed metadata.
    wanted="$(cat requirements/lock.txt pyproject.toml | sha256sum) $PWD"
    if [ "$(cat $stamp 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    # An environment that was moved or copied still points at its first place: make it anew.
    if ! .venv/bin/python -c 'import pip' 2>/dev/null || ! grep -qF "$PWD/.venv" .venv/bin/activate; then
        python=$(scripts/python.sh)
        make_environment "$python"
    fi
    pip='.venv/bin/python -m pip --disable-pip-version-check --no-input'
    say "installing what requirements/lock.txt names"
    # Twice quiet: what pip says about a machine's own configuration is not ours to repeat; errors are still said.
    $pip install -qq --require-hashes --only-binary :all: -r requirements/lock.txt
    $pip install -qq --no-deps --no-build-isolation --editable .
    echo "$wanted" >$stamp
}

from_debian() { # what it is called here, what it is for, package…
    local what=$1 purpose=$2 missing=build/no-$1
    shift 2
    if ! may_apt_install; then
        say "no $what here and no right to install it: the tests say what they leave out"
        return
    fi
    if [ -e "$missing" ]; then
        return
    fi
    say "installing Debian's $what, $purpose"
    # RUNLEVEL=1: no server of a package's own is started; the tests start theirs, on data of their own. Where an init
    # system starts it all the same, it is not ours to stop: the tests use a free port.
    if ! { update_once && RUNLEVEL=1 apt_install "$@"; }; then
        say "$what cannot be had here: the tests say what they leave out (make clean, to try again)"
        mkdir -p build
        touch "$missing"
    fi
}

UPDATED=
update_once() {
    [ -n "$UPDATED" ] || apt-get -q update >&2
    UPDATED=yes
}

has_node_pg() {
    NODE_PATH=/usr/share/nodejs:build/node-pg/usr/share/nodejs node -e 'require("pg")' 2>/dev/null
}

unpack_node_pg() { # beside a node that is not Debian's its packages cannot be installed; their files are enough
    { command -v node && may_apt_install; } >/dev/null || return 1
    say "unpacking Debian's node-pg, a client in the tests"
    mkdir -p build/node-pg
    (
        cd build/node-pg
        apt-get -q download node-pg node-split2 node-xtend && for package in *.deb; do dpkg -x "$package" .; done
    ) >&2 && has_node_pg
}

setup_servers() {
    local debian_15=/usr/lib/postgresql/15/bin/postgres rails
    rails='require "rails"; require "active_record"; require "action_mailer"; require "pg"; require "rake"'
    [ -x $debian_15 ] || from_debian postgresql-15 "a server for the tests" postgresql-15
    [ ! -x $debian_15 ] || [ -e /usr/share/postgresql/15/extension/pgtap.control ] ||
        from_debian pgtap "for changes that carry pgTAP tests" postgresql-15-pgtap
    command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ] ||
        from_debian mariadb "a server for the tests" mariadb-server
    ruby -e "$rails" 2>/dev/null ||
        from_debian rails "a client in the tests" ruby-railties ruby-activerecord ruby-actionmailer ruby-pg rake
    has_node_pg || unpack_node_pg || from_debian node-pg "a client in the tests" node-pg
}

case "${1:-}" in
    python) setup_python ;;
    servers) setup_servers ;;
    *)
        sed -n '2,/^set/{/^#/p}' "$0" >&2
        exit 2
        ;;
esac
