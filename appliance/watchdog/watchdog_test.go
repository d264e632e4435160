package watchdog

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// dog stands for the device: it notes when it was fed.
type dog struct {
	longest int
	timeout int
	fed     []time.Time
	off     bool
}

func (d *dog) setTimeout(s int) (int, error) {
	if s > d.longest {
		return 0, errors.New("invalid argument")
	}
	d.timeout = s
	return s, nil
}
func (d *dog) feed() error   { d.fed = append(d.fed, time.Now()); return nil }
func (d *dog) disarm() error { d.off = true; return nil }
func (d *dog) close() error  { return nil }

// machine is a machine with some watchdogs, by identity, and the path that was opened.
func machine(t *testing.T, d *dog, load func(dir string) error, identities ...string) (Config, *string) {
	dir := t.TempDir()
	for i, identity := range identities {
		add(t, dir, i, identity)
	}
	opened := new(string)
	before := openDevice
	openDevice = func(path string) (device, error) { *opened = filepath.Base(path); return d, nil }
	t.Cleanup(func() { openDevice = before })
	return Config{Log: slog.New(slog.DiscardHandler), Dev: dir + "/dev", Sys: dir + "/sys", Load: func(name string) error {
		if name != soft {
			t.Errorf("asked for %s", name)
		}
		return load(dir)
	}}, opened
}

func add(t *testing.T, dir string, i int, identity string) {
	name := "watchdog" + string(rune('0'+i))
	class := filepath.Join(dir, "sys/class/watchdog", name)
	for path, text := range map[string]string{class + "/identity": identity + "\n", dir + "/dev/" + name: ""} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHardwareFirst(t *testing.T) {
	d := &dog{longest: 600}
	none := func(string) error { return errors.New("no such module") }
	c, opened := machine(t, d, none, "Software Watchdog", "i6300ESB timer")
	w, err := Open(c)
	if err != nil || *opened != "watchdog1" || w.Name() != "i6300ESB timer, 30s" || !w.Hardware() {
		t.Fatalf("%v, opened %s: %v", w, *opened, err)
	}
	c, opened = machine(t, d, none, "Software Watchdog")
	if w, err = Open(c); err != nil || *opened != "watchdog0" || w.Hardware() {
		t.Fatalf("opened %s: %v", *opened, err)
	}
	c, opened = machine(t, d, func(dir string) error { add(t, dir, 0, "Software Watchdog"); return nil })
	if w, err = Open(c); err != nil || *opened != "watchdog0" || w.Hardware() {
		t.Fatalf("the kernel's own: opened %s: %v", *opened, err)
	}
	if c, _ = machine(t, d, none); c.Load != nil {
		if _, err = Open(c); err == nil {
			t.Error("armed where there is none")
		}
	}
	c, _ = machine(t, &dog{longest: 10}, none, "iTCO_wdt")
	if w, err = Open(c); err != nil || w.Name() != "iTCO_wdt, 7s" {
		t.Errorf("hardware that cannot wait long: %v %v", w, err)
	}
}

// TestFedWhileAlive: the dog is fed in time while the main loop answers, and not once more
// when it does not, or hangs.
func TestFedWhileAlive(t *testing.T) {
	d := &dog{longest: 600}
	c, _ := machine(t, d, nil, "iTCO_wdt")
	synctest.Test(t, func(t *testing.T) {
		w, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		var state atomic.Value
		state.Store("well")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- w.Run(ctx, func(asking context.Context) error {
				switch state.Load() {
				case "sick":
					return errors.New("no answer")
				case "hung":
					<-asking.Done()
					return asking.Err()
				}
				return nil
			})
		}()
		time.Sleep(5 * time.Minute) // of the bubble's time
		synctest.Wait()
		last := d.fed[0]
		for _, at := range d.fed[1:] {
			if at.Sub(last) > 15*time.Second {
				t.Errorf("not fed for %s of 30s", at.Sub(last))
			}
			last = at
		}
		if time.Since(last) > 15*time.Second {
			t.Error("not fed any more")
		}
		for _, s := range []string{"sick", "hung"} {
			state.Store(s)
			synctest.Wait()
			n := len(d.fed)
			time.Sleep(time.Hour)
			synctest.Wait()
			if len(d.fed) != n {
				t.Errorf("%s, and fed %d times", s, len(d.fed)-n)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if d.off {
			t.Error("disarmed without being told to")
		}
		n := len(d.fed)
		if err := w.Last(2 * time.Minute); err != nil || d.timeout != 120 || len(d.fed) != n+1 || d.off {
			t.Errorf("the last timeout: %+v %v", d, err)
		}
		if err := w.Close(); err != nil || d.off {
			t.Error("let go, and disarmed after all")
		}
	})
}

// TestHardwareTakesOver: the kernel's own watchdog is armed before any module is there.
func TestHardwareTakesOver(t *testing.T) {
	d := &dog{longest: 600}
	c, opened := machine(t, d, nil, "Software Watchdog")
	c.Load = func(string) error { return nil }
	synctest.Test(t, func(t *testing.T) {
		w, err := Open(c)
		if err != nil || w.Hardware() {
			t.Fatal(w, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx, func(context.Context) error { return nil }) }()
		synctest.Wait()
		add(t, filepath.Dir(c.Dev), 1, "i6300ESB timer")
		time.Sleep(10 * time.Second) // of the bubble's time
		synctest.Wait()
		if *opened != "watchdog1" || !w.Hardware() || w.Name() != "i6300ESB timer, 30s" || !d.off {
			t.Errorf("opened %s: %s", *opened, w.Name())
		}
		cancel()
		<-done
	})
}

func TestClose(t *testing.T) {
	d := &dog{longest: 600}
	c, _ := machine(t, d, nil, "iTCO_wdt")
	w, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil || !d.off || w.feed() == nil {
		t.Errorf("%+v %v", d, err)
	}
}
