-- /// change
-- title = "Delete a customer who asked for it, with all invoices"
-- request = "https://tracker.example.org/103"
-- mitigation = "The accountant has the paper."
-- ///

-- @expect 36
DELETE FROM invoice_line WHERE invoice_id IN (
    SELECT invoice_id FROM invoice JOIN customer ON customer.customer_id = invoice.customer_id
    WHERE customer.email = 'puja_srivastava@yahoo.in'
);

-- @expect 6
DELETE FROM invoice WHERE customer_id IN (SELECT customer_id FROM customer WHERE email = 'puja_srivastava@yahoo.in');

-- @expect 1
DELETE FROM customer WHERE email = 'puja_srivastava@yahoo.in';

-- @assert "no invoice is without its customer"
SELECT count(*) = 0 FROM invoice WHERE customer_id NOT IN (SELECT customer_id FROM customer);
