"""What a row of a table cannot say: keys whose meaning depends on other keys, one module per part of a trainer."""
