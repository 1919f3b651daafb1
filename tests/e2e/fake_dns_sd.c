/* A DNS-SD library whose network is the folder $FAKE_DNS_SD_DIR: a file for each service. Every
   service is on the host $FAKE_DNS_SD_HOST. As much of <dns_sd.h> as conclave uses; for
   test_pool_doctor.py. */
#include <arpa/inet.h>
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

enum { NAME_MAX_BYTES = 64, TXT_MAX = 1300, FLAG_ADD = 2 };

typedef struct Query* Ref;
typedef void (*RegisterReply)(Ref, uint32_t, int32_t, const char*, const char*, const char*, void*);
typedef void (*BrowseReply)(Ref, uint32_t, uint32_t, int32_t, const char*, const char*, const char*,
                            void*);
typedef void (*ResolveReply)(Ref, uint32_t, uint32_t, int32_t, const char*, const char*, uint16_t,
                             uint16_t, const unsigned char*, void*);

struct Query {
  int event; /* readable while there is something to say */
  char name[NAME_MAX_BYTES + 1];
  RegisterReply on_registered;
  BrowseReply on_browsed;
  ResolveReply on_resolved;
  void* context;
};

struct Service {
  uint16_t port; /* network byte order */
  uint16_t txt_size;
  unsigned char txt[TXT_MAX];
};

static Ref new_query(int event, const char* name, void* context) {
  Ref query = calloc(1, sizeof *query);
  query->event = event;
  strncpy(query->name, name, NAME_MAX_BYTES);
  query->context = context;
  return query;
}

static int once(void) { return eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK); }

static FILE* open_service(const char* name, const char* mode) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", getenv("FAKE_DNS_SD_DIR"), name);
  return fopen(path, mode);
}

int32_t DNSServiceRegister(Ref* ref, uint32_t flags, uint32_t interface, const char* name,
                           const char* type, const char* domain, const char* host, uint16_t port,
                           uint16_t txt_size, const void* txt, RegisterReply reply, void* context) {
  (void)flags, (void)interface, (void)type, (void)domain, (void)host;
  struct Service service = {.port = port, .txt_size = txt_size};
  memcpy(service.txt, txt, txt_size);
  FILE* file = open_service(name, "wb");
  if (file == NULL || fwrite(&service, sizeof service, 1, file) != 1 || fclose(file) != 0)
    return -1;
  *ref = new_query(once(), name, context);
  (*ref)->on_registered = reply;
  return 0;
}

int32_t DNSServiceBrowse(Ref* ref, uint32_t flags, uint32_t interface, const char* type,
                         const char* domain, BrowseReply reply, void* context) {
  (void)flags, (void)interface, (void)type, (void)domain;
  const int changes = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  inotify_add_watch(changes, getenv("FAKE_DNS_SD_DIR"), IN_CLOSE_WRITE);
  fclose(open_service(".first", "wb")); /* so that what is there is said */
  *ref = new_query(changes, "", context);
  (*ref)->on_browsed = reply;
  return 0;
}

int32_t DNSServiceResolve(Ref* ref, uint32_t flags, uint32_t interface, const char* name,
                          const char* type, const char* domain, ResolveReply reply, void* context) {
  (void)flags, (void)interface, (void)type, (void)domain;
  *ref = new_query(once(), name, context);
  (*ref)->on_resolved = reply;
  return 0;
}

int DNSServiceRefSockFD(Ref query) { return query->event; }

void DNSServiceRefDeallocate(Ref query) {
  close(query->event);
  free(query);
}

static void say_services(Ref query) {
  DIR* folder = opendir(getenv("FAKE_DNS_SD_DIR"));
  for (struct dirent* entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    query->on_browsed(query, FLAG_ADD, 1, 0, entry->d_name, "_conclave._tcp.", "local.",
                      query->context);
  }
  if (folder != NULL) closedir(folder);
}

static void say_place(Ref query) {
  struct Service service;
  FILE* file = open_service(query->name, "rb");
  if (file == NULL) return;
  const int whole = fread(&service, sizeof service, 1, file) == 1;
  fclose(file);
  if (!whole) return;
  query->on_resolved(query, 0, 1, 0, query->name, getenv("FAKE_DNS_SD_HOST"), service.port,
                     service.txt_size, service.txt, query->context);
}

int32_t DNSServiceProcessResult(Ref query) {
  char seen[4096];
  while (read(query->event, seen, sizeof seen) > 0) continue;
  if (query->on_registered != NULL) {
    query->on_registered(query, 0, 0, query->name, "_conclave._tcp.", "local.", query->context);
  }
  if (query->on_browsed != NULL) say_services(query);
  if (query->on_resolved != NULL) say_place(query);
  return 0;
}
