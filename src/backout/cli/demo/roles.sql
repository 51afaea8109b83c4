-- Who is who in the demo, as docs/how-to/rights.md advises it for production. Run by the server's superuser.
CREATE ROLE clinic_app LOGIN PASSWORD :'app_password';      -- the application: owns its tables
CREATE ROLE backout LOGIN PASSWORD :'backout_password';     -- who changes are run by: owns journal and rescue
GRANT clinic_app TO backout;
CREATE DATABASE clinic;
GRANT CREATE ON DATABASE clinic TO backout;
\connect clinic
GRANT CREATE ON SCHEMA public TO clinic_app;
