"""What a step costs before it runs: costs, the simulator, the rehearsal, and the planner on top of them."""
