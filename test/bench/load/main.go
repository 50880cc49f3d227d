// Command load is what the application pods of the benchmarks run.
//
//	load stamp      print the time at which the program began, and wait
//	load run DIR    work in DIR and print a line for each slow or failed operation
//	load mounts DIR N    mount N times something below DIR; load unmount DIR N
//
// The first two end with SIGTERM. Times are nanoseconds since 1970 by the machine's
// clock, which the nodes of the local cluster share with the benchmark.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/juicefs-csi/driver/test/bench/workload"
)

func main() {
	began := time.Now()
	if err := run(began, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(began time.Time, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch {
	case len(args) == 1 && args[0] == "stamp":
		fmt.Println(began.UnixNano())
		<-ctx.Done()
		return nil
	case len(args) == 2 && args[0] == "run":
		return workload.Run(ctx, args[1], os.Stdout)
	}
	if len(args) == 3 {
		return foreign(args[0], args[1], args[2])
	}
	return fmt.Errorf("usage: load stamp | load run DIR | load mounts DIR N | load unmount DIR N")
}
