// Appliance is the first program of the appliance's image, /init. The kernel starts it as
// process number 1, which is the machine; that starts it again as the data plane, and on an
// unclaimed machine as the claim's door. What needs the store is the image's other program,
// lazaretd: these processes, which have privileges or meet strangers first, have none of it in
// them, and start without it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"lazaret/appliance/supervise"
	"lazaret/cmd/internal/process"
	"lazaret/internal/config"
	"lazaret/internal/machine"
	"lazaret/internal/version"
)

func main() {
	if os.Getpid() == 1 {
		fmt.Fprintln(os.Stderr, "appliance:", machine.Run(version.Number))
		select {} // the watchdog ends this; process number 1 may not
	}
	supervise.TakeName()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := child(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "appliance:", err)
		os.Exit(1)
	}
}

// child is a process that the machine starts.
func child(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("it runs as process number 1 of an appliance, and as what that starts")
	}
	name, args := args[0], args[1:]
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	confined := flags.Bool("confine", false, "give up what the process does not need, by seccomp and Landlock")
	switch name {
	case "dataplane":
		path := flags.String("c", config.DefaultPath, "configuration `file`")
		if err := parse(flags, args); err != nil {
			return err
		}
		return process.Plane.Run(ctx, *path, *confined)
	case "claim":
		at := flags.String("listen", "0.0.0.0:443,[::]:443", "`addresses` to listen at, with commas between")
		if err := parse(flags, args); err != nil {
			return err
		}
		return process.Claim(ctx, strings.Split(*at, ","), *confined)
	}
	return fmt.Errorf("there is no command %q here; the machine's other program has more", name)
}

// parse takes flags and nothing else.
func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%s: there is something after the flags: %q", flags.Name(), flags.Args())
	}
	return nil
}
