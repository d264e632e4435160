// Panics is a slot's program that ends at once: the kernel dies with it.
package main

func main() { panic("a slot that does not start") }
