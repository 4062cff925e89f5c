"""What makes a score too good: pictures and patients that are there twice, shortcuts to the answer."""
