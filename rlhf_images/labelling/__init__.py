"""The page on which people compare pictures: its server, what guards it, and its files."""
