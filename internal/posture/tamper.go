package posture

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"lazaret/internal/version"
)

// agent says which agent this is.
func agent(context.Context) (map[string]string, error) {
	return one("agent.version", version.Number), nil
}

// signsFact names the signs of tampering that were found, for people.
const signsFact = "custom.tamper_signs"

// tampered puts the signs into facts. They are hints: who owns the device wholly can hide
// all of them.
func tampered(signs []string, err error) (map[string]string, error) {
	if len(signs) == 0 {
		if err != nil {
			return nil, err
		}
		return one("device.tampered", "false"), nil
	}
	slices.Sort(signs)
	return map[string]string{"device.tampered": "true", signsFact: clip(strings.Join(signs, ", "))}, err
}

// process is what a collector knows of the agent's own process.
type process struct {
	executable string                                       // path in root, without the leading slash
	env        []string                                     // of the process
	owner      func(fs.FileInfo) (uid, gid uint32, ok bool) // who owns a file
}

// tamper looks for signs that somebody meddles with the agent on Linux: its program or a
// directory above may be written by others than root, a debugger is attached, a library is
// to be loaded into every program, a module was forced into the kernel.
func tamper(root fs.FS, p process) (map[string]string, error) {
	signs, err := writable(root, p)
	signs = append(signs, preloads(p.env, "LD_PRELOAD", "LD_AUDIT")...)
	status, e := readFile(root, "proc/self/status")
	tracer, said := tracerOf(status)
	switch {
	case e != nil || !said:
		err = errors.Join(err, errors.New("whether a debugger is attached cannot be told"), e)
	case tracer != 0:
		signs = append(signs, "a debugger is attached to the agent")
	}
	taint, e := strconv.ParseUint(readWord(root, "proc/sys/kernel/tainted"), 10, 64)
	if e != nil {
		err = errors.Join(err, errors.New("what the kernel is tainted with cannot be told"))
	}
	if taint&forcedModule != 0 {
		signs = append(signs, "a module was forced into the kernel")
	}
	return tampered(signs, err)
}

// forcedModule is the kernel's taint by a module that was loaded although it did not fit
// (Documentation/admin-guide/tainted-kernels, bit 1). Modules from outside the kernel's
// tree and unsigned ones are common and no sign.
const forcedModule = 1 << 1

func tracerOf(status string) (pid int, ok bool) {
	for line := range strings.Lines(status) {
		if v, is := strings.CutPrefix(line, "TracerPid:"); is {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			return n, err == nil
		}
	}
	return 0, false
}

// preloads finds variables that make the system load foreign code into programs.
func preloads(env []string, names ...string) (signs []string) {
	for _, e := range env {
		if k, v, _ := strings.Cut(e, "="); v != "" && slices.Contains(names, k) {
			signs = append(signs, k+" is set")
		}
	}
	return signs
}

// writable finds the agent's program or a directory above it that others than root may
// change. In a directory with the sticky bit, as /tmp, nobody replaces what others own.
func writable(root fs.FS, p process) (signs []string, err error) {
	if !fs.ValidPath(p.executable) {
		return nil, errors.New("where the agent's program lies cannot be told")
	}
	for at := p.executable; ; at = path.Dir(at) {
		info, err := fs.Stat(root, at)
		if err != nil {
			return signs, err
		}
		uid, gid, ok := p.owner(info)
		if !ok {
			return signs, errors.New("who owns the agent's program cannot be told")
		}
		sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0
		switch mode := info.Mode().Perm(); {
		case uid != 0:
			signs = append(signs, "/"+at+" belongs to user "+strconv.FormatUint(uint64(uid), 10))
		case !sticky && (mode&0o002 != 0 || mode&0o020 != 0 && gid != 0):
			signs = append(signs, "/"+at+" may be written by others")
		}
		if at == "." {
			return signs, nil
		}
	}
}
