"""The main job: handwritten digits, from training as a program to inference over REST."""
