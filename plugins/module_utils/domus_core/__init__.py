"""The engine of Domus: what is wanted, what is found, the plan between them, and the drivers that carry it out."""
