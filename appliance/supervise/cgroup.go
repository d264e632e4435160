package supervise

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// openCgroups has cgroups below root limit memory and tasks.
func openCgroups(root string) error {
	path := filepath.Join(root, "cgroup.subtree_control")
	if err := os.WriteFile(path, []byte("+memory +pids"), 0); err != nil {
		return fmt.Errorf("limiting memory and tasks by cgroup: %w", err)
	}
	return nil
}

// group is the cgroup of one process and what it starts.
type group struct {
	path string
	dir  *os.File
}

// makeGroup makes the cgroup of a part, or sets the limits of one left over.
func makeGroup(root string, p Part) (*group, error) {
	g := &group{path: filepath.Join(root, "lazaret-"+p.Name)}
	if err := os.Mkdir(g.path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making a cgroup: %w", err)
	}
	settings := [][2]string{{"memory.max", "max"}, {"memory.oom.group", "1"}, {"pids.max", "max"}}
	if p.Memory > 0 {
		settings[0][1] = strconv.FormatInt(p.Memory, 10)
	}
	if p.Tasks > 0 {
		settings[2][1] = strconv.Itoa(p.Tasks)
	}
	for _, s := range settings {
		if err := os.WriteFile(filepath.Join(g.path, s[0]), []byte(s[1]), 0); err != nil {
			return nil, fmt.Errorf("setting a limit: %w", errors.Join(err, os.Remove(g.path)))
		}
	}
	dir, err := os.Open(g.path)
	if err != nil {
		return nil, fmt.Errorf("opening a cgroup: %w", errors.Join(err, os.Remove(g.path)))
	}
	g.dir = dir
	return g, nil
}

// kill ends everything in the group.
func (g *group) kill() {
	if g != nil {
		_ = os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0) // nothing left in it: the better
	}
}

// close removes the group, once all in it is gone. It is used again where that takes long.
func (g *group) close() {
	if g == nil {
		return
	}
	g.dir.Close()
	for range 20 {
		if err := os.Remove(g.path); err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		<-time.After(10 * time.Millisecond) // killed processes leave it one by one
	}
}
