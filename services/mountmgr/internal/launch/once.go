package launch

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/logkeys"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/output"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/process"
)

// OnceOptions are the settings of what takes its spec from a file instead of a
// mount manager: Exec and Remove.
type OnceOptions struct {
	// SpecFile is a launch.v1.Spec in JSON.
	SpecFile string
	// TerminationLog is written when something fails, if it exists.
	TerminationLog string
	// Environment is the program's own, of which PATH, HOME and TZ are passed on.
	Environment []string
	// PassEnv are names of further variables that are passed on.
	PassEnv []string
	// ReapOrphans is set for PID 1.
	ReapOrphans bool
	// Output receives what the stages and the client print.
	Output *os.File
	// Logger is for the program's own records.
	Logger *slog.Logger
}

// AddFlags registers the flags of every such command.
func (o *OnceOptions) AddFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.SpecFile, "spec", "", "`file` with the launch.v1.Spec in JSON")
	passEnvFlag(flags, &o.PassEnv)
	flags.StringVar(&o.TerminationLog, "termination-log", defaultTerminationLog, terminationLogUsage)
}

// Validate says what is wrong: errdefs.ErrInvalidArgument.
func (o *OnceOptions) Validate() error {
	if o.SpecFile == "" {
		return fmt.Errorf("no spec file: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// task is what follows the stages of a spec. It returns what has failed and how;
// no status when all went well.
type task func(context.Context, runner) (stage string, failure *launchv1.ExitStatus)

// run writes the files of spec, runs its stages and then do. A failure is
// written to the termination log too.
func (o *OnceOptions) run(ctx context.Context, spec *launchv1.Spec, do task) error {
	passOn(spec, o.PassEnv, o.Environment)
	stage, exit := o.runStages(ctx, spec, do)
	if exit == nil {
		return nil
	}
	if err := writeTermination(o.TerminationLog, stage, exit); err != nil {
		o.Logger.Warn("cannot write the termination message", logkeys.Error, err)
	}
	return fmt.Errorf("%s: exit code %d %s", stage, exit.GetCode(), exit.GetError())
}

// runStages returns what has failed and how when all that it has printed is
// written.
func (o *OnceOptions) runStages(ctx context.Context, spec *launchv1.Spec, do task) (string, *launchv1.ExitStatus) {
	log := output.NewLog(o.Output)
	defer func() {
		flush, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		log.Close(flush.Done())
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := runner{processes: process.NewTable(o.ReapOrphans), own: o.Environment, log: log}
	go r.processes.Run(ctx)
	if err := writeFiles(spec.GetFiles()); err != nil {
		return filesStage, &launchv1.ExitStatus{Code: -1, Error: err.Error()}
	}
	for _, stage := range spec.GetStages() {
		if exit, succeeded := r.runStage(ctx, spec, stage); !succeeded {
			return stage.GetName(), exit
		}
	}
	return do(ctx, r)
}
