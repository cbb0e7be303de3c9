"""The proof in short, on the user's own machine: the disk under the data, and a service that is killed under load."""
