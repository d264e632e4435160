package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// row is one result. Bound, where there is one, is the highest Ratio that is good, or the
// highest Value where nothing is divided.
type row struct {
	Name         string   `json:"name"`
	Value        float64  `json:"value"`
	Unit         string   `json:"unit"`
	ComparedWith string   `json:"compared_with"`
	Ratio        *float64 `json:"ratio"`
	Bound        *float64 `json:"bound"`
	OK           bool     `json:"ok"`

	// Of the row "machine" alone.
	Kernel string         `json:"kernel,omitempty"`
	CPU    string         `json:"cpu,omitempty"`
	Go     string         `json:"go,omitempty"`
	Sizes  map[string]int `json:"sizes,omitempty"`
	At     string         `json:"at,omitempty"`
	Load   string         `json:"load,omitempty"` // of the minutes before, as /proc/loadavg has it
}

func number(f float64) *float64 { return &f }

// judge sets OK. What cannot be compared with its bound is not good.
func (r *row) judge() {
	switch {
	case r.Bound == nil:
		r.OK = true
	case r.Ratio != nil:
		r.OK = *r.Ratio <= *r.Bound
	default:
		r.OK = r.Value <= *r.Bound
	}
}

func (r row) String() string {
	s := fmt.Sprintf("%s: %s %s", r.Name, short(r.Value), r.Unit)
	if r.Ratio != nil {
		s += fmt.Sprintf(", ratio %s", short(*r.Ratio))
	}
	if r.Bound != nil {
		s += fmt.Sprintf(", bound %s", short(*r.Bound))
	}
	return s
}

// short prints about three digits that count.
func short(f float64) string {
	switch a := max(f, -f); {
	case a >= 100:
		return fmt.Sprintf("%.0f", f)
	case a >= 10:
		return fmt.Sprintf("%.1f", f)
	case a >= 1:
		return fmt.Sprintf("%.2f", f)
	}
	return fmt.Sprintf("%.3f", f)
}

func printTable(w io.Writer, rows []row) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "what\tvalue\tunit\tratio\tbound\tok\tcompared with")
	for _, r := range rows {
		ratio, bound, ok := "", "", ""
		if r.Ratio != nil {
			ratio = short(*r.Ratio)
		}
		if r.Bound != nil {
			bound, ok = short(*r.Bound), "yes"
			if !r.OK {
				ok = "MISSED"
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, short(r.Value), r.Unit, ratio, bound, ok, r.ComparedWith)
	}
	t.Flush()
}

func writeJSON(path string, rows []row) error {
	b, err := json.MarshalIndent(rows, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(b, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing results: %w", err)
	}
	return nil
}

// machine says where the numbers come from.
func machine(s *session) row {
	var uts unix.Utsname
	kernel := "unknown"
	if unix.Uname(&uts) == nil {
		kernel = unix.ByteSliceToString(uts.Release[:])
	}
	r := row{
		Name: "machine", Value: float64(runtime.NumCPU()), Unit: "cores", Kernel: kernel, CPU: cpuModel(), Go: runtime.Version(),
		Sizes: map[string]int{"rounds": s.rounds, "moves": s.movesPerRound(), "enrollments": s.enrollmentsPerRound(), "reports": s.reportsPerRound()},
		At:    time.Now().UTC().Format(time.RFC3339),
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.Load = strings.Join(strings.Fields(string(text))[:3], " ")
	}
	counts := s.deviceCounts()
	r.Sizes["devices_least"], r.Sizes["devices_most"], r.Sizes["moving"] = counts[0], counts[len(counts)-1], movers
	r.ComparedWith = fmt.Sprintf("Linux %s, %s, %s; load before %s; medians of %d rounds", kernel, r.CPU, r.Go, r.Load, s.rounds)
	r.judge()
	return r
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// samples are durations of one thing.
type samples []time.Duration

// quantile returns the smallest sample that at least the part q of all samples does not
// exceed; zero of none.
func (s samples) quantile(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	i := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

func (s samples) median() time.Duration { return s.quantile(0.5) }

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// rounds holds one set of samples for each round.
type rounds []samples

// median is the median of the rounds' medians.
func (r rounds) median() time.Duration {
	var m samples
	for _, s := range r {
		m = append(m, s.median())
	}
	return m.median()
}

// over is the median of the rounds' own ratios: what slows one round down slows both of
// its sides.
func (r rounds) over(base rounds) float64 {
	var ratios []float64
	for i := range min(len(r), len(base)) {
		if b := base[i].median(); b > 0 {
			ratios = append(ratios, float64(r[i].median())/float64(b))
		}
	}
	if len(ratios) == 0 {
		return 0
	}
	slices.Sort(ratios)
	return ratios[(len(ratios)-1)/2]
}
