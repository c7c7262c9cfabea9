"""The verifier `json_schema`: JSON answers that must follow a schema and may have to equal a value."""
