"""What in its input a network's score hangs on: maps by gradients, attention, covering; and their tests."""
