package update

import (
	"bytes"
	"os"
	"testing"
)

// BenchmarkStage verifies, writes and reads back a bundle with a slot of the size that the
// image has: 30 MB.
func BenchmarkStage(b *testing.B) {
	img := bytes.Repeat(image(new_), 30_000_000/imageSize)
	bundle := bundleOf(b, testManifest(new_, older), img, testKey(1))
	b.SetBytes(int64(len(bundle)))
	for b.Loop() {
		mounted := b.TempDir()
		d, err := OpenDir(mounted)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := manager(b, d, b.TempDir(), old, "").Stage(b.Context(), bytes.NewReader(bundle), false); err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(mounted); err != nil {
			b.Fatal(err)
		}
	}
}
