//go:build darwin || windows

package posture

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"
)

// run is the Runner of macOS and Windows, which tell some facts through their tools alone.
// The tool gets an empty environment, no input, and is killed when ctx ends.
func run(ctx context.Context, path string, args ...string) (string, int, error) {
	var out bounded
	c := exec.CommandContext(ctx, path, args...)
	c.Env = []string{}
	c.Stdout, c.Stderr = &out, &out
	c.WaitDelay = time.Second // a child that keeps the pipe open is not waited for
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return out.String(), exit.ExitCode(), nil
	}
	if err != nil {
		return "", -1, fmt.Errorf("running %s: %w", path, err)
	}
	return out.String(), 0, nil
}
