package machine

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
)

// TestRecoveryIsWithdrawn: the screen shows a recovery passphrase until somebody has
// confirmed it, or until another has taken its place, which opens nothing any more.
func TestRecoveryIsWithdrawn(t *testing.T) {
	for name, end := range map[string]func(m *Machine, answer chan<- string){
		"confirmed": func(_ *Machine, answer chan<- string) { answer <- "" },
		"replaced":  func(m *Machine, _ chan<- string) { m.told() },
	} {
		t.Run(name, func(t *testing.T) {
			m := idle(t)
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
