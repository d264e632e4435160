package screen

import (
	"context"
	"os"
)

func openDevice(name string) (*os.File, error) {
	return os.OpenFile("/dev/"+name, os.O_RDWR, 0)
}

func (s *Screen) show(ctx context.Context, c Console) error {
	<-ctx.Done()
	return nil
}
