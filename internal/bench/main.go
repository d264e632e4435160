// Bench measures what DESIGN promises of a gateway's costs: every comparison side by side
// and interleaved in one run, since a machine's speed differs between two minutes by more
// than most of the bounds. It prints a table, writes bench.json, and ends with a status
// other than zero where a bound is missed or something could not be measured.
//
// It makes its own namespaces and needs neither root nor anything installed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"lazaret/internal/testnet"
)

// group is a set of rows that are measured together.
type group struct {
	name string
	run  func(context.Context, *session) error
}

var groups = []group{
	{"store", measureStore},
	{"policy", measurePolicy},
	{"enrollment", measureEnrollment},
	{"move", measureMoves},
	{"report", measureReports},
	{"event", measureEvents},
	{"reports", measureBatches},
	{"packet", measurePackets},
	{"tunnel", measureTunnel},
	{"demotion", measureDemotions},
	{"bulk", measureBulk},
	{"boot", measureBoot},
	{"ways", measureWays},
}

// roles are what this program is inside a lab.
var roles = map[string]testnet.Role{
	rolePlane:  runPlane,
	roleGate:   runGate,
	roleServe:  runServe,
	roleDrive:  runDrive,
	roleSend:   runSend,
	roleSink:   runSink,
	roleRig:    runRig,
	roleBoot:   runBoot,
	roleKeeper: runKeeper,
	rolePump:   runPump,
	roleDrain:  runDrain,
	roleFlood:  runFlood,
}

// session is one run of the program.
type session struct {
	quick  bool
	long   bool
	rounds int
	group  string // under way
	rows   []row
}

// progress tells a person what takes so long.
func (s *session) progress(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", a...)
}

func (s *session) add(r row) {
	r.Group = s.group
	r.judge()
	s.rows = append(s.rows, r)
	s.progress("%s", r)
}

func main() {
	testnet.Main(roles)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := flags.Bool("quick", false, "smaller sizes and fewer rounds, too few to hold anything to a bound: missed ones are shown and do not fail")
	rounds := flags.Int("rounds", 0, "rounds of each comparison (default 15; 3 with -quick)")
	long := flags.Bool("long", false, "also what takes minutes: 100,000 moves at once")
	only := flags.String("only", "", "measure only these groups, separated by commas: "+strings.Join(groupNames(), ", "))
	asJSON := flags.Bool("json", false, "print JSON in place of the table")
	out := flags.String("o", "bench.json", "where to write the results")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	s := &session{quick: *quick, long: *long, rounds: *rounds}
	if s.rounds <= 0 {
		s.rounds = 15
		if s.quick {
			s.rounds = 3
		}
	}
	s.rows = append(s.rows, machine(s))
	var faults []error
	for _, g := range chosen {
		s.progress("measuring %s", g.name)
		s.group = g.name
		start := time.Now()
		if err := g.run(ctx, s); err != nil {
			faults = append(faults, fmt.Errorf("measuring %s: %w", g.name, err))
		}
		s.progress("%s took %s", g.name, time.Since(start).Round(time.Second))
	}
	if *asJSON {
		faults = append(faults, printJSON(os.Stdout, s.rows))
	} else {
		printTable(os.Stdout, s.rows)
	}
	faults = append(faults, writeJSON(*out, s.rows))
	for _, r := range s.rows {
		if !r.OK && !s.quick {
			faults = append(faults, fmt.Errorf("missed: %s", r))
		}
	}
	return errors.Join(faults...)
}

func groupNames() []string {
	var names []string
	for _, g := range groups {
		names = append(names, g.name)
	}
	return names
}

// choose returns the groups of these names, in the order of measuring; all for none.
func choose(list string) ([]group, error) {
	if list == "" {
		return groups, nil
	}
	names := strings.Split(list, ",")
	for _, n := range names {
		if !slices.Contains(groupNames(), n) {
			return nil, fmt.Errorf("no group %q: there are %s", n, strings.Join(groupNames(), ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(groups), func(g group) bool { return !slices.Contains(names, g.name) }), nil
}
