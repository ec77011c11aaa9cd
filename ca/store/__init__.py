"""What the control plane must not forget, behind one interface."""
