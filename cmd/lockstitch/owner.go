package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/consumer"
	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/objects"
	"lockstitch/state/segment"
)

// ownerObject is the object in a store that says whose it is.
const ownerObject = "lockstitch.json"

// ownerVersion is the version of that object.
const ownerVersion = 1

// maxOwner bounds what is read of it; ours are smaller by far.
const maxOwner = 1 << 10

// owner ties a store to a catalog. Two systems that read the same event topics cannot
// tell the other's segments from orphans of their own: each would sweep what is live.
type owner struct {
	Version int    `json:"v"`
	Catalog string `json:"catalog"` // the topic id
}

// refusal says that a store or a group is not to be used, however often one asks.
type refusal struct{ error }

func (e *refusal) Unwrap() error { return e.error }

// Is tells the consumer.
func (e *refusal) Is(target error) bool { return target == consumer.ErrForeignStore }

// ownerPatience is for how long a start waits for the answer.
const ownerPatience = 5 * time.Second

// ownStore refuses to start on a store that is another catalog's, and takes one that is
// nobody's. While a store is away nobody knows; it is asked again before it is swept.
func (r *replica) ownStore(ctx context.Context) error {
	err := refusedBy(ctx, r.askOwner)
	if no := (*refusal)(nil); errors.As(err, &no) {
		return err
	}
	if err == nil {
		r.lookForSegments(ctx)
		return nil
	}
	r.log.Warn("whose the store is cannot be found out; it is not swept until it can", "err", err)
	return nil
}

// ownGroup refuses to join a consumer group whose lanes run for another catalog.
func (r *replica) ownGroup(ctx context.Context) error {
	group := r.s.Replica.Group
	err := refusedBy(ctx, func(ctx context.Context) error {
		own, err := catalogID(ctx, r.asker, r.s.Topics.Catalog)
		if err != nil {
			return err
		}
		other, err := consumer.OtherSystem(ctx, r.asker, group, own)
		if other != "" {
			err = &refusal{fmt.Errorf("another system works in the consumer group %q: %s, while the topic %s has the id %s; give each system a group of its own (group)",
				group, other, r.s.Topics.Catalog, own)}
		}
		return err
	})
	if no := (*refusal)(nil); errors.As(err, &no) {
		return err
	}
	if err != nil {
		r.log.Info("whether another system works in the consumer group cannot be found out; the group's leader will see it", "group", group, "err", err)
	}
	return nil
}

// refusedBy asks until it is answered, or refused by a *refusal, but not for longer than
// ownerPatience.
func refusedBy(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, ownerPatience)
	defer cancel()
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := ask(ctx)
		if no := (*refusal)(nil); errors.As(err, &no) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxElapsedTime(ownerPatience))
	return err
}

// catalogID is the id of the catalog topic, by which systems are told apart.
func catalogID(ctx context.Context, cl *kgo.Client, topic string) (segment.TopicID, error) {
	infos, err := kafka.Describe(ctx, cl, topic)
	if err != nil {
		return segment.TopicID{}, err
	}
	return infos[topic].ID, nil
}

// lookForSegments says so if none of the newest segments is in the store: a copy of
// another one names its catalog as well, and what others have cut since is not in it. It
// is no refusal: a store that was restored from a copy must be usable.
func (r *replica) lookForSegments(ctx context.Context) {
	live := r.catalog.Segments()
	live = live[max(0, len(live)-3):]
	for _, seg := range live {
		if _, err := r.store.Stat(ctx, seg.Object); !errors.Is(err, objects.ErrNotExist) {
			return
		}
	}
	if len(live) > 0 {
		r.log.Error("the store has none of the newest segments: if it was moved, stop all replicas, copy it again, and start them with the same store_url; exports that need what is missing end in error",
			"segments", len(live), "newest", live[len(live)-1].Object)
	}
}

// askOwner is an error unless the store is this catalog's, or was nobody's; a *refusal if
// it is another one's.
func (r *replica) askOwner(ctx context.Context) error {
	o := ownership{s: r.s, asker: r.asker, store: r.store, catalog: r.catalog, take: true,
		advice: "give each system a store of its own (store_url); if the catalog topic was really made anew, and what is in the store may be swept, delete the object " + ownerObject}
	return o.ask(ctx)
}

// ownership is what is asked about whose a store is.
type ownership struct {
	s       *Settings
	asker   *kgo.Client
	store   objects.Store
	catalog *catalog.View
	take    bool   // a store that is nobody's; else it is looked at only
	advice  string // where it is another catalog's
}

func (w *ownership) ask(ctx context.Context) error {
	addr, err := storeAddress(w.s.Replica)
	if err != nil {
		return err
	}
	u, err := url.Parse(addr)
	if err != nil {
		return errors.New("store_url cannot be parsed") // the parser's message repeats it
	}
	id, err := catalogID(ctx, w.asker, w.s.Topics.Catalog)
	if err != nil {
		return err
	}
	own := owner{Version: ownerVersion, Catalog: id.String()}
	held, err := w.read(ctx)
	if errors.Is(err, objects.ErrNotExist) {
		switch err = w.nobodys(ctx); {
		case err != nil:
		case !w.take:
			held = own // it may be
		default:
			// Of replicas that start at once one is the first, and all read what it wrote.
			if err = w.write(ctx, own); err == nil || errors.Is(err, objects.ErrExists) {
				held, err = w.read(ctx)
			}
		}
	}
	if err == nil && held != own {
		err = &refusal{fmt.Errorf("it belongs to the catalog with the topic id %s, as %s there says, and the topic %s has the id %s; %s",
			held.Catalog, ownerObject, w.s.Topics.Catalog, own.Catalog, w.advice)}
	}
	if err != nil {
		return fmt.Errorf("the store %s cannot be used: %w", objects.Shown(u), err)
	}
	return nil
}

func (w *ownership) read(ctx context.Context) (o owner, err error) {
	body, err := w.store.Open(ctx, ownerObject, 0, maxOwner)
	if err != nil {
		return o, err
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	if err != nil {
		return o, err
	}
	switch err := json.Unmarshal(text, &o); {
	case err != nil:
		return o, &refusal{fmt.Errorf("its %s cannot be read: %w", ownerObject, err)}
	case o.Version != ownerVersion:
		return o, &refusal{fmt.Errorf("its %s has version %d, this program knows %d", ownerObject, o.Version, ownerVersion)}
	}
	return o, nil
}

// nobodys is an error unless a store without an owner can be this catalog's: a new one, or
// one of before stores were tied to catalogs, in which the newest segment must be.
func (w *ownership) nobodys(ctx context.Context) error {
	if live := w.catalog.Segments(); len(live) > 0 {
		newest := live[len(live)-1].Object
		_, err := w.store.Stat(ctx, newest)
		if errors.Is(err, objects.ErrNotExist) {
			return &refusal{fmt.Errorf("it has neither %s nor %s, the newest segment in the catalog; store_url is another one than that of the other replicas", ownerObject, newest)}
		}
		if err != nil {
			return err
		}
	}
	if w.catalog.LogTime() == 0 { // nothing was ever cut by this catalog
		err := w.store.List(ctx, "segments/", func(i objects.Info) error {
			return &refusal{fmt.Errorf("it has %s, and the catalog is new: it is the store of another system", i.Name)}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *ownership) write(ctx context.Context, o owner) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return w.store.Put(ctx, ownerObject, text)
}
