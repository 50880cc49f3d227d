package launch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

// keeperEnv are the variables between a keeper and the client's supervisor; see
// package keeper.
func keeperEnv() []string { return []string{"JFS_SUPER_COMM", "_JFS_META_SID", "_FUSE_STATE_PATH"} }

// Exec runs the stages of spec and then the client in place of this program, so
// that the client is its own supervisor and makes its own mount. The client also
// gets what its keeper has to say. Exec returns only when it fails.
func Exec(ctx context.Context, spec *launchv1.Spec, options OnceOptions) error {
	if err := errors.Join(options.Validate(), ValidateSpec(spec)); err != nil {
		return err
	}
	// The directory of a new volume is for applications of any user.
	umask := unix.Umask(0)
	err := options.run(ctx, spec, func(context.Context, runner) (string, *launchv1.ExitStatus) { return "", nil })
	unix.Umask(umask)
	if err != nil {
		return err
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
