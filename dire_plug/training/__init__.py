"""Train networks: the loop over epochs, students and their protocols, transforms, stored soft labels."""
