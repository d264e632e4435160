package testneed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// WithoutCgo is for the TestMain of a package whose tests must run in a program that is built
// as the product is, without cgo. In a test binary that has cgo (go test where there is a C
// compiler, and the race detector) it builds the package's tests again without, runs them with
// the same arguments, and returns their exit code; else it says that there is nothing to do.
func WithoutCgo() (code int, done bool) {
	if !cgo {
		return 0, false
	}
	dir, err := os.MkdirTemp("", "without-cgo-")
	if err != nil {
		return broken("making a directory", err)
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "pure.test")
	build := exec.Command("go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return broken("building the tests without cgo:\n"+string(out), err)
	}
	run := exec.Command(binary, os.Args[1:]...)
	run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = run.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(1, exit.ExitCode()), true
	}
	if err != nil {
		return broken("running the tests without cgo", err)
	}
	return 0, true
}

func broken(doing string, err error) (int, bool) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", doing, err)
	return 1, true
}
