"""8-bit quantization: ranges are learned with fake quantizers, then weights become integers."""
