"""The command line: words to settings, one library call, print. No stage knows of it."""
