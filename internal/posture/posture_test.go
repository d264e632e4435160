package posture

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func fixed(facts map[string]string, err error) func(context.Context) (map[string]string, error) {
	return func(context.Context) (map[string]string, error) { return facts, err }
}

// TestHanging: a collector that never answers, even after its time, costs its own facts
// alone (NetBird #6512 was one that stopped everything), and is not started a second time.
func TestHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release, started := make(chan struct{}), 0
		s := NewSet(0,
			Collector{"stuck", func(context.Context) (map[string]string, error) {
				started++
				<-release
				return one("disk.encrypted", "true"), nil
			}},
			Collector{"polite", func(ctx context.Context) (map[string]string, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}},
			Collector{"quick", fixed(one("os.name", "debian"), nil)},
		)
		begin := time.Now()
		p := s.Collect(t.Context())
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("took %s, want the 5 seconds of one collector", took)
		}
		if !maps.Equal(p.Facts, map[string]string{"os.name": "debian"}) {
			t.Errorf("facts %v", p.Facts)
		}
		if len(p.Missing) != 2 || p.Missing[0].Collector != "polite" || p.Missing[1] != (Missing{"stuck", errSlow.Error()}) {
			t.Errorf("missing %v", p.Missing)
		}
		synctest.Wait()
		if p = s.Collect(t.Context()); started != 1 || len(p.Missing) != 2 || p.Missing[1] != (Missing{"stuck", errBusy.Error()}) {
			t.Errorf("asked again while it hangs: started %d times, missing %v", started, p.Missing)
		}
		close(release)
		synctest.Wait()
		if p = s.Collect(t.Context()); started != 2 || p.Facts["disk.encrypted"] != "true" {
			t.Errorf("after it ended: started %d times, facts %v", started, p.Facts)
		}
		synctest.Wait()
	})
}

// TestFaults: a collector's panic, its error and its oversized or odd values stay its own.
func TestFaults(t *testing.T) {
	p := NewSet(time.Minute,
		Collector{"wild", func(context.Context) (map[string]string, error) { panic("index out of range") }},
		Collector{"partly", fixed(one("os.name", "debian"), errors.New("no version"))},
		Collector{"large", fixed(map[string]string{"device.model": strings.Repeat("x", 257), "device.serial": "C02\n", "device.manufacturer": "\xff", "os.build": "6.1"}, nil)},
		Collector{"empty", fixed(one("os.version", ""), nil)},
	).Collect(t.Context())
	if !maps.Equal(p.Facts, map[string]string{"os.name": "debian", "os.build": "6.1"}) {
		t.Errorf("facts %v", p.Facts)
	}
	why := map[string]string{}
	for _, m := range p.Missing {
		why[m.Collector] = m.Why
	}
	if len(why) != 3 || !strings.Contains(why["wild"], "index out of range") || why["partly"] != "no version" ||
		strings.Count(why["large"], "is no short text") != 3 {
		t.Errorf("missing %v", p.Missing)
	}
}

// TestMany: a set that says too much is cut at what a gateway takes.
func TestMany(t *testing.T) {
	many := map[string]string{}
	for i := range 100 {
		many["custom."+strings.Repeat("a", i+1)] = "1"
	}
	p := NewSet(0, Collector{"many", fixed(many, nil)}).Collect(t.Context())
	if len(p.Facts) != maxFacts || len(p.Missing) != 1 {
		t.Errorf("%d facts, missing %v", len(p.Facts), p.Missing)
	}
}

// TestCollect runs the collectors of this machine, whatever it is.
func TestCollect(t *testing.T) {
	p := Collect(t.Context())
	if p.Facts["agent.version"] == "" {
		t.Errorf("not even the agent's version: %v", p)
	}
	if at := p.Facts["os.patched_at"]; at != "" {
		if _, err := time.Parse(time.RFC3339, at); err != nil {
			t.Error(err)
		}
	}
	t.Log(p)
}
