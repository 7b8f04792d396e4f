"""The only code that cuts parameters. It works on a copy, and proves that cutting equals masking."""
