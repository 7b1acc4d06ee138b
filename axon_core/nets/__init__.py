"""Networks: film encoder, 3D U-Net and ControlNet, super-resolution."""
