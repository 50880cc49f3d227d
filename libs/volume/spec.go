package volume

import (
	"google.golang.org/protobuf/types/known/durationpb"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

// LaunchSpec is what jfs-launch must know to run the stages and the client of a
// mount at the path. It holds the credentials.
func (s Settings) LaunchSpec(mountID, mountPoint string) *launchv1.Spec {
	filled := s.WithMountPoint(mountPoint)
	spec := &launchv1.Spec{
		MountId: mountID,
		Client:  &launchv1.Process{Argv: filled.Client},
	}
	for _, stage := range filled.Stages {
		spec.Stages = append(spec.Stages, stage.Launch())
	}
	for _, file := range filled.Files {
		spec.Files = append(spec.Files, &launchv1.File{Path: file.Path, Content: file.Content, Mode: file.Mode})
	}
	for _, variable := range filled.Env {
		spec.Env = append(spec.Env, &launchv1.EnvVar{Name: variable.Name, Value: variable.Value})
	}
	return spec
}

// Launch is the stage as jfs-launch takes it.
func (s Stage) Launch() *launchv1.Stage {
	return &launchv1.Stage{
		Name:         s.Name,
		Process:      &launchv1.Process{Argv: s.Argv},
		Timeout:      durationpb.New(s.Timeout),
		IgnoreOutput: s.IgnoreOutput,
	}
}
