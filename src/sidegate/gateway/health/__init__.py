"""What is checked and what follows (`table`, pure), and the asking."""
