"""The bundle that holds a budget, searched for."""
