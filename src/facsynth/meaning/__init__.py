"""What features mean, and which of them matter to the task."""
