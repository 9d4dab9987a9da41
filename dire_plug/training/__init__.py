"""Training: the loop over epochs, students and their protocols, transforms, and soft labels that are stored."""
