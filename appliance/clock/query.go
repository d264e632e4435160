package clock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/beevik/ntp"
)

// DefaultServers are asked where neither the setup nor DHCP names any. They are of four
// operators who offer them to everybody; the NTP pool wants products to have a zone of
// their own, which this one has not.
var DefaultServers = []string{"time.cloudflare.com", "ntp.se", "ptbtime1.ptb.de", "time.nist.gov"}

const (
	maxServers  = 8               // asked in a round
	patience    = 4 * time.Second // for one answer
	maxDistance = time.Second     // what is less certain is not believed (RFC 5905, MAXDIST)
	banished    = 24 * time.Hour  // how long a server that said no is left alone
	slowed      = time.Hour       // and one that said slower
)

// errKiss is a server's word to leave it alone, or to ask less (RFC 5905 section 7.4).
type errKiss struct{ code string }

func (e errKiss) Error() string { return "it says " + e.code }

// pause is how long the server is not asked.
func (e errKiss) pause() time.Duration {
	if e.code == "RATE" {
		return slowed
	}
	return banished
}

// ask asks one server, "host" or "host:port", by the clock that now reads.
func ask(ctx context.Context, server string, now func() time.Time) (sample, error) {
	var mu sync.Mutex
	var open net.Conn
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if open != nil {
			open.Close()
		}
	})
	defer stop()
	r, err := ntp.QueryWithOptions(server, ntp.QueryOptions{
		Timeout: patience, GetSystemTime: now,
		Dialer: func(_, remote string) (net.Conn, error) {
			ctx, stop := context.WithTimeout(ctx, patience)
			defer stop()
			c, err := (&net.Dialer{}).DialContext(ctx, "udp", remote)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				open = c
			}
			return c, err
		},
	})
	if err != nil {
		return sample{}, err
	}
	if r.IsKissOfDeath() {
		return sample{}, errKiss{r.KissCode}
	}
	if err := r.Validate(); err != nil {
		return sample{}, err
	}
	if r.RootDistance < 0 || r.RootDistance > maxDistance {
		return sample{}, fmt.Errorf("its time is off by up to %v", r.RootDistance.Round(time.Millisecond))
	}
	return sample{Server: server, Offset: r.ClockOffset, Distance: r.RootDistance}, nil
}

// round asks all servers at once that are not left alone, and returns what they agree on.
func (k *Keeper) round(ctx context.Context) (time.Duration, string, error) {
	servers := k.servers()
	ctx, stop := context.WithTimeout(ctx, 2*patience)
	defer stop()
	got := make([]sample, len(servers))
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, server := range servers {
		if k.isLeftAlone(server) {
			errs[i] = errors.New("it asked to be left alone")
			continue
		}
		wg.Go(func() { got[i], errs[i] = k.config.ask(ctx, server, k.config.System.Now) })
	}
	wg.Wait()
	var samples []sample
	for i, err := range errs {
		if err == nil {
			samples = append(samples, got[i])
			continue
		}
		k.config.Log.Debug("asking a time server", "server", servers[i], "error", err)
		var kiss errKiss
		if errors.As(err, &kiss) {
			k.leaveAlone(servers[i], kiss.pause())
		}
	}
	offset, from, err := agree(samples, len(servers))
	if err != nil && len(servers) == 1 && errs[0] != nil {
		err = fmt.Errorf("asking %s for the time: %w", servers[0], errs[0])
	}
	return offset, from, err
}
