"""1- to 8-bit quantization: fake quantizers learn the ranges, then weights become integers."""
