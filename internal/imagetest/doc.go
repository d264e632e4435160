// Package imagetest boots the image that make image has built, and takes it through its
// life: claimed, enforcing, restarted, updated, attacked. It holds tests alone; they need
// the directory of the built files in LAZARET_IMAGE, which make image-test sets.
package imagetest
