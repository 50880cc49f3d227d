package launch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/output"
)

// handleStart takes the descriptor and begins with the stages, or the client.
func (s *supervisor) handleStart(ctx context.Context, r *request, start *launchv1.Start) error {
	if err := s.checkStart(r, start); err != nil {
		return err
	}
	var state *os.File
	if start.GetHasState() {
		state = r.take(1)
	}
	s.spec = start.GetSpec()
	passOn(s.spec, s.options.PassEnv, s.options.Environment)
	s.mask = newMask(s.spec)
	s.sessionID = start.GetSessionId()
	s.served, s.restarts, s.failures = false, 0, nil
	s.attempt++
	s.descriptors.Bar()
	s.descriptors.SetDescriptor(r.take(0), start.GetSettings())
	r.reply(&launchv1.Reply{Result: &launchv1.Reply_Start{Start: &launchv1.StartResult{}}}, nil)

	stages := s.spec.GetStages()
	if start.GetSkipStages() {
		stages = nil
	}
	ctx, cancel := context.WithCancel(ctx)
	s.stopStages = cancel
	s.setState(stateStages)
	go func() {
		defer cancel()
		succeeded := s.prepare(ctx, s.spec, stages)
		s.post(func() { s.prepared(succeeded, clientStart{state: state, wait: start.GetWaitForRelease()}) })
	}()
	return nil
}

func (s *supervisor) checkStart(r *request, start *launchv1.Start) error {
	if s.state != stateIdle && s.state != stateFailed && s.state != stateHandedOff || s.stop != nil {
		return fmt.Errorf("start: a client already runs (%s): %w", s.state, errdefs.ErrFailedPrecondition)
	}
	files := 1
	if start.GetHasState() {
		files = 2
	}
	switch {
	case len(r.files) != files:
		return fmt.Errorf("start: %d descriptors came along, want %d: %w", len(r.files), files, errdefs.ErrInvalidArgument)
	case start.GetHasState() && start.GetWaitForRelease():
		return fmt.Errorf("start: a client that waits gets its state later: %w", errdefs.ErrInvalidArgument)
	case len(start.GetSettings()) > 0 && !clientfd.ValidSettings(start.GetSettings()):
		return fmt.Errorf("start: settings are not a FUSE_INIT request: %w", errdefs.ErrInvalidArgument)
	}
	return ValidateSpec(start.GetSpec())
}

// ValidateSpec says what is wrong with spec: errdefs.ErrInvalidArgument.
func ValidateSpec(spec *launchv1.Spec) error {
	if len(spec.GetClient().GetArgv()) == 0 {
		return fmt.Errorf("spec: no client: %w", errdefs.ErrInvalidArgument)
	}
	for _, stage := range spec.GetStages() {
		if err := validateStage(stage); err != nil {
			return fmt.Errorf("spec: %w", err)
		}
	}
	for _, file := range spec.GetFiles() {
		if !filepath.IsAbs(file.GetPath()) || filepath.Clean(file.GetPath()) != file.GetPath() {
			return fmt.Errorf("spec: path of file %q is not absolute and clean: %w", file.GetPath(), errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func validateStage(stage *launchv1.Stage) error {
	if stage.GetName() == "" || len(stage.GetProcess().GetArgv()) == 0 || stage.GetTimeout().AsDuration() <= 0 {
		return fmt.Errorf("stage %q needs a name, a process and a time limit: %w", stage.GetName(), errdefs.ErrInvalidArgument)
	}
	return nil
}

// newMask knows the values that spec wants kept secret.
func newMask(spec *launchv1.Spec) *output.Mask {
	var secrets []string
	for _, variable := range spec.GetEnv() {
		secrets = append(secrets, variable.GetValue())
	}
	for _, file := range spec.GetFiles() {
		secrets = append(secrets, string(file.GetContent()))
	}
	return output.NewMask(secrets...)
}

// prepared goes on after the stages.
func (s *supervisor) prepared(succeeded bool, start clientStart) {
	s.stopStages = nil
	switch {
	case s.stop != nil:
		start.close()
		s.finishStop()
	case !succeeded:
		start.close() // the failed stage has been told
	default:
		s.startClient(start)
	}
}

// stageEnded tells the result of a stage; a failure ends the start.
func (s *supervisor) stageEnded(name string, exit *launchv1.ExitStatus, succeeded bool) {
	s.event(&launchv1.Event{Event: &launchv1.Event_StageEnded{StageEnded: &launchv1.StageEnded{
		Name: name, Exit: exit, Succeeded: succeeded,
	}}})
	if !succeeded && s.stop == nil {
		s.fail(name, exit)
	}
}

// environment returns the environment of a process of spec: PATH, HOME and TZ
// of own, the variables of spec, and extra, which nothing overrides.
func environment(own []string, spec *launchv1.Spec, extra ...string) []string {
	variables := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": "/root",
	}
	for _, variable := range own {
		name, value, _ := strings.Cut(variable, "=")
		if slices.Contains([]string{"PATH", "HOME", "TZ"}, name) && value != "" {
			variables[name] = value
		}
	}
	for _, variable := range spec.GetEnv() {
		variables[variable.GetName()] = variable.GetValue()
	}
	for _, variable := range extra {
		if name, value, found := strings.Cut(variable, "="); found {
			variables[name] = value
		}
	}
	var result []string
	for name, value := range variables {
		result = append(result, name+"="+value)
	}
	slices.Sort(result)
	return result
}
