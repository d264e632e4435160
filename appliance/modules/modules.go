// Package modules loads kernel modules for the devices that there are, and by name, and
// tells when devices come and go. It trusts the index that was made with the image, and
// the kernel checks every module's signature.
package modules

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
)

// Config is what a Loader needs.
type Config struct {
	Index *appliance.ModuleIndex // required
	Log   *slog.Logger           // required
	Dir   string                 // required: directory of the modules, like /lib/modules/6.12.1
	Sys   string                 // optional: default /sys
}

// Loader loads modules, each once. Its methods may be called at the same time.
type Loader struct {
	c      Config
	insert func(path, options string) error // gives a file to the kernel; tests have one of their own

	mu       sync.Mutex
	files    map[string]*file // by path
	seen     map[string]bool  // aliases that were looked up
	watchers []chan struct{}
}

// file is one module's file, given to the kernel once.
type file struct {
	once sync.Once
	err  error
}

// New returns a Loader that has loaded nothing.
func New(c Config) *Loader {
	if c.Sys == "" {
		c.Sys = "/sys"
	}
	return &Loader{c: c, insert: insert, files: map[string]*file{}, seen: map[string]bool{}}
}

// insert has the kernel load a module file, which it decompresses itself. What is there
// already is loaded, and what finds no device is not needed.
func insert(path, options string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if filepath.Ext(path) != ".ko" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), options, flags)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// Load loads modules by name or alias, with all that they need. One that the kernel has
// already, or that finds no device, is no error; one that the image lacks is. When it returns,
// drivers that Look has loaded have found their devices, if there was anything left to load.
func (l *Loader) Load(names ...string) error {
	var faults []error
	var wanted []string // modules that are not loaded yet
	for _, name := range names {
		found := l.c.Index.Find(name)
		if len(found) == 0 && !l.c.Index.Builtin(name) {
			faults = append(faults, fmt.Errorf("loading module %s: the image has none of that name", name))
		}
		for _, n := range found {
			if l.lacks(n) {
				wanted = append(wanted, n)
			}
		}
	}
	for i, n := range wanted {
		if err := l.load(n, l.lacksLater(wanted[i+1:], n)); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// lacks says whether a module was not given to the kernel yet.
func (l *Loader) lacks(name string) bool {
	paths := l.c.Index.Needs(name)
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(paths) > 0 && l.files[paths[len(paths)-1]] == nil
}

// lacksLater says whether one of the modules in later is still to be loaded once n is.
func (l *Loader) lacksLater(later []string, n string) bool {
	with := l.c.Index.Needs(n)
	return slices.ContainsFunc(later, func(name string) bool {
		paths := l.c.Index.Needs(name)
		return l.lacks(name) && !slices.Contains(with, paths[len(paths)-1])
	})
}

// asynchronously has a module's devices probed after it is loaded, and has its loading wait
// for no other driver that does so (the kernel's do_init_module).
const asynchronously = "async_probe"

// load loads one module of the index; hasty, it waits for nobody who still looks for devices.
// What it needs and cannot have stops it by itself: the kernel knows which of them it cannot
// do without.
func (l *Loader) load(name string, hasty bool) error {
	options := ""
	if hasty {
		options = asynchronously
	}
	paths := l.c.Index.Needs(name)
	for i, path := range paths {
		l.mu.Lock()
		f := l.files[path]
		if f == nil {
			f = &file{}
			l.files[path] = f
		}
		l.mu.Unlock()
		f.once.Do(func() { f.err = l.insert(filepath.Join(l.c.Dir, path), options) })
		if f.err != nil && i == len(paths)-1 {
			return fmt.Errorf("loading module %s: %w", name, f.err)
		} else if f.err != nil {
			l.c.Log.Warn("a module that another one may need was not loaded", "module", path, "for", name, "error", f.err)
		}
	}
	return nil
}

// isSlow says whether a module that needs others takes long to find its devices: drivers of
// ATA controllers wait a third of a second for each port that has no disk.
func isSlow(needs []string) bool {
	return slices.ContainsFunc(needs, func(path string) bool {
		name, _, _ := strings.Cut(filepath.Base(path), ".")
		return name == "libata"
	})
}

// Loaded returns the files of the modules given to the kernel by now, sorted, below the
// modules' directory.
func (l *Loader) Loaded() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.files))
}

// rounds bounds how often Devices looks again: a disk behind a controller behind a bus.
const rounds = 8

// Devices loads the modules for all devices that there are now, and for those that loading
// brings up. What fails is logged and returned; the rest is loaded all the same.
func (l *Loader) Devices() error {
	var faults []error
	for range rounds {
		more, err := l.look(false)
		faults = append(faults, err)
		if !more {
			break
		}
	}
	return errors.Join(faults...)
}

// Look loads the modules for the devices there are now, and does not wait until slow drivers
// have found theirs: whoever loads something next does.
func (l *Loader) Look() error {
	_, err := l.look(true)
	return err
}

// look is one round; more says that there were devices not seen before, which may bring
// others up.
func (l *Loader) look(hasty bool) (more bool, err error) {
	fresh := l.aliases()
	return len(fresh) > 0, l.serve(fresh, hasty)
}

// serve loads what serves devices; slow drivers come last, so that no other waits with them,
// and hasty nobody does.
func (l *Loader) serve(aliases []string, hasty bool) error {
	type need struct{ alias, name string }
	var quick, slow []need
	for _, alias := range aliases {
		for _, name := range l.c.Index.Find(alias) {
			if isSlow(l.c.Index.Needs(name)) {
				slow = append(slow, need{alias, name})
			} else {
				quick = append(quick, need{alias, name})
			}
		}
	}
	var faults []error
	for i, n := range append(quick, slow...) {
		if err := l.load(n.name, hasty && i >= len(quick)); err != nil {
			l.c.Log.Warn("a device has no driver", "device", n.alias, "error", err)
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// maxAlias bounds what is read of one device; the kernel bounds it by a page.
const maxAlias = 4096

// places is where devices say what they call themselves: those of each bus and each class,
// and what a kind of part says for all of its kind (processors). Together that is every
// modalias below /sys/devices, at a twentieth of the files there.
var places = []string{"bus/*/devices/*", "class/*/*", "devices/system/*"}

// aliases returns what devices call themselves, each name once in the Loader's life.
func (l *Loader) aliases() (fresh []string) {
	for _, place := range places {
		dirs, err := filepath.Glob(filepath.Join(l.c.Sys, filepath.Dir(place)))
		if err != nil { // a pattern that is none
			l.c.Log.Error("looking for devices", "place", place, "error", err)
		}
		for _, dir := range dirs {
			fresh = append(fresh, l.aliasesIn(dir)...)
		}
	}
	return fresh
}

func (l *Loader) aliasesIn(dir string) (fresh []string) {
	devices, err := os.ReadDir(dir)
	if err != nil {
		return nil // no directory, or gone by now
	}
	for _, d := range devices {
		text, err := os.ReadFile(filepath.Join(dir, d.Name(), "modalias"))
		if err != nil || len(text) >= maxAlias { // most have none, and some go while we look
			continue
		}
		if alias := strings.TrimSpace(string(text)); l.first(alias) {
			fresh = append(fresh, alias)
		}
	}
	return fresh
}

func (l *Loader) first(alias string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if alias == "" || l.seen[alias] {
		return false
	}
	l.seen[alias] = true
	return true
}

// Changed returns a channel that gets a value after block devices, network cards or input
// devices came or went since it was last read. Every call makes a channel of its own.
func (l *Loader) Changed() <-chan struct{} {
	c := make(chan struct{}, 1)
	l.mu.Lock()
	l.watchers = append(l.watchers, c)
	l.mu.Unlock()
	return c
}

func (l *Loader) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Run loads modules for devices as they appear, and tells of disks and cards, until ctx
// ends. It looks at all devices first, so that none is missed between Devices and Run.
func (l *Loader) Run(ctx context.Context) error {
	events, err := listen()
	if err != nil {
		return err
	}
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()
	l.again()
	for b := make([]byte, maxEvent); ; {
		e, err := events.next(b)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // some were lost
			l.again()
		case err != nil:
			return fmt.Errorf("hearing of devices: %w", err)
		default:
			l.handle(e)
		}
	}
}

// again looks at all devices.
func (l *Loader) again() {
	_ = l.Devices() // logged
	l.tell()
}

func (l *Loader) handle(e event) {
	if e.action == "add" && e.modalias != "" && l.first(e.modalias) {
		_ = l.serve([]string{e.modalias}, true) // logged
	}
	if e.subsystem == "block" || e.subsystem == "net" || e.subsystem == "input" {
		l.tell()
	}
}
