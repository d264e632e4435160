package screen

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/appliance"
)

// TestAskAside: what a serial line's log is not to hold goes to the video console, if there is one.
func TestAskAside(t *testing.T) {
	for _, video := range []bool{true, false} {
		p, q := sit(t), sit(t)
		s, _ := with(t, Config{Video: func() bool { return video }}, map[Console]*person{screenConsole: p, serialConsole: q})
		answers := make(chan string, 1)
		go func() {
			a, err := s.AskAside(t.Context(), "It is\n\n  correct horse\n\nEnter: ")
			answers <- fmt.Sprint(a, err)
		}()
		p.see("correct horse")
		who := p
		if !video {
			q.see("correct horse")
			who = q
		}
		who.press("yes\r")
		if got := receive(t, answers); got != "yes<nil>" {
			t.Errorf("video %v: the answer is %q", video, got)
		}
		s.Show(appliance.Status{Stage: appliance.Locked})
		q.see("lazaret: stage=locked")
		if video && strings.Contains(q.all(), "horse") {
			t.Error("the serial line has it")
		}
	}
}

// TestHasVideo: a kernel without a screen has a driver that stands in for one.
func TestHasVideo(t *testing.T) {
	for name, x := range map[string]struct {
		drivers map[string]string // name to bind
		want    bool
	}{
		"none": {nil, false}, "no screen": {map[string]string{"(S) dummy device\n": "1\n"}, false},
		"frame buffer": {map[string]string{"(S) dummy device\n": "0\n", "(M) frame buffer device\n": "1\n"}, true},
		"not bound":    {map[string]string{"(S) dummy device\n": "1\n", "(M) frame buffer device\n": "0\n"}, false},
		"VGA":          {map[string]string{"(S) VGA+\n": "1\n"}, true},
	} {
		dir, i := t.TempDir(), 0
		for driver, bind := range x.drivers {
			at := filepath.Join(dir, fmt.Sprint("vtcon", i))
			i++
			if err := os.Mkdir(at, 0o700); err != nil {
				t.Fatal(err)
			}
			for file, text := range map[string]string{"name": driver, "bind": bind} {
				if err := os.WriteFile(filepath.Join(at, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := hasVideo(dir); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
