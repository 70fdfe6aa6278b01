"""Engine ``stable-diffusion-cpp``: GGUF and single safetensors files, drawn by stable-diffusion.cpp without
torch."""
