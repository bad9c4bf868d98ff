"""arcray on Ray: the actors, the plane that other processes see, start and end."""
