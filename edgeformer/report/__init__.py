"""What was measured, as one JSON file, and its views: Markdown, and HTML that opens offline."""
