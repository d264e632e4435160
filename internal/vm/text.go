package vm

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

// TextScreen is what stands on the video card's text screen, which a machine with a BIOS
// has: 25 rows of 80 characters.
func (v *VM) TextScreen(ctx context.Context) (string, error) {
	const at, rows, columns = 0xb8000, 25, 80
	path := filepath.Join(v.t.TempDir(), "screen")
	if _, err := v.Do(ctx, "pmemsave", map[string]any{"val": at, "size": rows * columns * 2, "filename": path}); err != nil {
		return "", err
	}
	cells, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i := 0; i+1 < len(cells); i += 2 { // a character and its color
		b.WriteByte(cells[i])
		if (i/2+1)%columns == 0 {
			b.WriteByte('\n')
		}
	}
	return b.String(), nil
}
