package server

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/juicefs-csi/driver/libs/volume"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// view is what callers see of a record.
func (s *Server) view(r store.Record) *mountmgrv1.Mount {
	waiting, err := kernelmount.Waiting(r.DeviceMinor)
	if err != nil {
		waiting = 0 // Nothing a caller could do about it.
	}
	view := &mountmgrv1.Mount{
		Id: r.ID, State: state(r.State), StateSince: timestamp(r.StateSince), Reason: r.Reason, Message: r.Message,
		CreatedAt: timestamp(r.CreatedAt), UniqueId: r.UniqueID, ShareMode: shareMode(r.ShareMode),
		SettingsHash: r.SettingsHash, FileSystem: r.FileSystem, FileSystemUuid: r.FileSystemUUID, ReadOnly: r.ReadOnly,
		MountPath: r.MountPath, DeviceMinor: r.DeviceMinor, WaitingRequests: waiting,
		Client: s.client(&r.Client), Successor: s.client(r.Successor), Recoveries: r.Recoveries, Upgrade: upgrade(r.Upgrade),
		WantedProtection: mountmgrv1.CrashProtection_CRASH_PROTECTION_FULL,
		Protection:       mountmgrv1.CrashProtection_CRASH_PROTECTION_CONNECTION,
		ProtectionReason: "this release protects the connection",
	}
	for _, reference := range r.References {
		view.References = append(view.References, &mountmgrv1.Reference{
			VolumeId: reference.VolumeID, TargetPath: reference.TargetPath, Since: timestamp(reference.Since),
			Pod: &mountmgrv1.PodReference{
				Namespace: reference.Pod.Namespace, Name: reference.Pod.Name,
				Uid: reference.Pod.UID, ServiceAccount: reference.Pod.ServiceAccount,
			},
		})
	}
	return view
}

func (s *Server) client(c *store.Client) *mountmgrv1.Client {
	if c == nil || c.PodName == "" {
		return nil
	}
	return &mountmgrv1.Client{
		PodNamespace: s.namespace, PodName: c.PodName, PodUid: c.PodUID, Image: c.Image, Version: c.Version,
		SessionId: c.SessionID, StartedAt: timestamp(c.StartedAt), Mode: clientMode(c.Mode),
	}
}

func clientMode(mode store.ClientMode) mountmgrv1.Client_Mode {
	switch mode {
	case store.ModeClassic:
		return mountmgrv1.Client_MODE_CLASSIC_POD
	case store.ModeProcess:
		return mountmgrv1.Client_MODE_PROCESS
	case store.ModePod:
	}
	return mountmgrv1.Client_MODE_POD // Records of older releases have none.
}

func state(s lifecycle.State) mountmgrv1.MountState {
	states := map[lifecycle.State]mountmgrv1.MountState{
		lifecycle.Pending:     mountmgrv1.MountState_MOUNT_STATE_PENDING,
		lifecycle.Starting:    mountmgrv1.MountState_MOUNT_STATE_STARTING,
		lifecycle.Serving:     mountmgrv1.MountState_MOUNT_STATE_SERVING,
		lifecycle.HandingOver: mountmgrv1.MountState_MOUNT_STATE_HANDING_OVER,
		lifecycle.Recovering:  mountmgrv1.MountState_MOUNT_STATE_RECOVERING,
		lifecycle.Draining:    mountmgrv1.MountState_MOUNT_STATE_DRAINING,
		lifecycle.Gone:        mountmgrv1.MountState_MOUNT_STATE_GONE,
		lifecycle.Lost:        mountmgrv1.MountState_MOUNT_STATE_LOST,
		lifecycle.Failed:      mountmgrv1.MountState_MOUNT_STATE_FAILED,
	}
	return states[s]
}

func shareMode(s volume.ShareMode) mountmgrv1.ShareMode {
	modes := map[volume.ShareMode]mountmgrv1.ShareMode{
		volume.ShareByVolume:       mountmgrv1.ShareMode_SHARE_MODE_VOLUME,
		volume.ShareByStorageClass: mountmgrv1.ShareMode_SHARE_MODE_STORAGE_CLASS,
		volume.ShareByFileSystem:   mountmgrv1.ShareMode_SHARE_MODE_FILE_SYSTEM,
	}
	return modes[s]
}

// timestamp leaves an unknown time unset.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
