package launch

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/logkeys"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/output"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/process"
)

// ExecOptions are the settings of Exec.
type ExecOptions struct {
	// SpecFile is a launch.v1.Spec in JSON.
	SpecFile string
	// TerminationLog is written when a stage fails, if it exists.
	TerminationLog string
	// Environment is the program's own, of which PATH, HOME and TZ are passed
	// on, and to the client what its keeper has to say.
	Environment []string
	// PassEnv are names of further variables that are passed on.
	PassEnv []string
	// ReapOrphans is set for PID 1.
	ReapOrphans bool
	// Output receives what the stages print.
	Output *os.File
	// Logger is for the program's own records.
	Logger *slog.Logger
}

// AddFlags registers the flags of classic.
func (o *ExecOptions) AddFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.SpecFile, "spec", "", "`file` with the launch.v1.Spec of the mount in JSON")
	flags.StringVar(&o.TerminationLog, "termination-log", defaultTerminationLog, terminationLogUsage)
	passEnvFlag(flags, &o.PassEnv)
}

// Validate says what is wrong: errdefs.ErrInvalidArgument.
func (o ExecOptions) Validate() error {
	if o.SpecFile == "" {
		return fmt.Errorf("no spec file: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// keeperEnv are the variables between a keeper and the client's supervisor; see
// package keeper.
func keeperEnv() []string { return []string{"JFS_SUPER_COMM", "_JFS_META_SID", "_FUSE_STATE_PATH"} }

// Exec runs the stages of spec and then the client in place of this program, so
// that the client is its own supervisor and makes its own mount. It returns only
// when it fails; that is written to the termination log too.
func Exec(ctx context.Context, spec *launchv1.Spec, options ExecOptions) error {
	if err := errors.Join(options.Validate(), ValidateSpec(spec)); err != nil {
		return err
	}
	passOn(spec, options.PassEnv, options.Environment)
	if stage, exit := runStages(ctx, spec, options); exit != nil {
		if err := writeTermination(options.TerminationLog, stage, exit); err != nil {
			options.Logger.Warn("cannot write the termination message", logkeys.Error, err)
		}
		return fmt.Errorf("%s: exit code %d %s", stage, exit.GetCode(), exit.GetError())
	}
	extra := []string{"JFS_FOREGROUND=1", "JFS_INSIDE_CONTAINER=1"}
	for _, variable := range options.Environment {
		if name, _, _ := strings.Cut(variable, "="); slices.Contains(keeperEnv(), name) {
			extra = append(extra, variable)
		}
	}
	argv := spec.GetClient().GetArgv()
	if err := unix.Exec(argv[0], argv, environment(options.Environment, spec, extra...)); err != nil {
		return fmt.Errorf("execute %s: %w", argv[0], err)
	}
	return nil
}

// runStages returns the stage that failed and how; no status when all went well.
func runStages(ctx context.Context, spec *launchv1.Spec, options ExecOptions) (stage string, failure *launchv1.ExitStatus) {
	log := output.NewLog(options.Output)
	defer func() {
		flush, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		log.Close(flush.Done())
	}()
	// The directory of a new volume is for applications of any user.
	defer unix.Umask(unix.Umask(0))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := runner{processes: process.NewTable(options.ReapOrphans), own: options.Environment, log: log}
	go r.processes.Run(ctx)
	if err := writeFiles(spec.GetFiles()); err != nil {
		return filesStage, &launchv1.ExitStatus{Code: -1, Error: err.Error()}
	}
	for _, stage := range spec.GetStages() {
		if exit, succeeded := r.runStage(ctx, spec, stage); !succeeded {
			return stage.GetName(), exit
		}
	}
	return "", nil
}
