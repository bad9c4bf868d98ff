"""Programs that use arcray as its users do."""
