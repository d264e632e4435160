package machine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"lazaret/appliance/machine"
)

// opened is a data partition that can be given another recovery passphrase, but for an error.
type opened struct {
	partition
	err error
}

func (o opened) NewRecovery(context.Context) (string, error) { return "CCCC-DDDD", o.err }

// TestRecoveryStands: where no other could be made, the passphrase on the screen is the one
// that opens the data, and stays.
func TestRecoveryStands(t *testing.T) {
	m := idle(t)
	m.parts, m.state.data = nil, opened{err: errors.New("no room")}
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		over := false
		m.keepRecovery(ctx, "AAAA-BBBB", func(ctx context.Context, _ string) (string, error) {
			<-ctx.Done()
			over = true
			return "", ctx.Err()
		})
		if _, err := m.NewRecovery(ctx); !errors.Is(err, machine.ErrRefused) {
			t.Error(err)
		}
		synctest.Wait()
		if over || m.state.problems["recovery"] == "" {
			t.Errorf("the question is over: %t; the problems: %q", over, m.state.problems)
		}
		stop()
		synctest.Wait()
	})
}

// TestRecoveryIsWithdrawn: the screen shows a recovery passphrase until somebody has
// confirmed it, or until another has taken its place, which opens nothing any more.
func TestRecoveryIsWithdrawn(t *testing.T) {
	for name, end := range map[string]func(m *Machine, answer chan<- string){
		"confirmed": func(_ *Machine, answer chan<- string) { answer <- "" },
		"replaced": func(m *Machine, _ chan<- string) {
			if recovery, err := m.NewRecovery(t.Context()); err != nil || recovery != "CCCC-DDDD" {
				t.Errorf("another: %q (%v)", recovery, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := idle(t)
			m.state.data = opened{} // nothing is shown: there is no network to ask
			m.parts = nil
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				answer, over := make(chan string), false
				m.keepRecovery(ctx, "AAAA-BBBB", func(ctx context.Context, prompt string) (string, error) {
					defer func() { over = true }()
					if !strings.Contains(prompt, "AAAA-BBBB") {
						t.Errorf("it asks %q", prompt)
					}
					select {
					case text := <-answer:
						return text, nil
					case <-ctx.Done():
						return "", ctx.Err()
					}
				})
				synctest.Wait()
				if over || m.state.problems["recovery"] == "" {
					t.Errorf("the question is over: %t; the problem: %q", over, m.state.problems["recovery"])
				}
				end(m, answer)
				synctest.Wait()
				if !over || len(m.state.problems) != 0 {
					t.Errorf("the question is over: %t; the problems: %q", over, m.state.problems)
				}
				stop()
				synctest.Wait()
				if len(m.state.problems) != 0 {
					t.Errorf("after the machine's end: %q", m.state.problems)
				}
			})
		})
	}
}
